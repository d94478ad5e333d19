"""Tests of both stores of an index: a folder, and a PostgreSQL database."""

import itertools

import pytest

from tests.helpers.store_case import StoreCase


class TestFolder(StoreCase):
    @pytest.fixture(scope="class")
    @staticmethod
    def new_location(tmp_path_factory):
        return lambda: tmp_path_factory.mktemp("store") / "index"


@pytest.mark.ci
class TestDatabase(StoreCase):
    # pgvector stores 16 bits per number.
    tolerance = 2e-3

    @pytest.fixture(scope="class")
    @staticmethod
    def new_location(server):
        numbers = itertools.count()
        return lambda: server.new_database(f"store{next(numbers)}")
