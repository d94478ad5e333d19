"""Reader of the files that W&B writes in its offline mode.

A file has a header of 7 bytes, and then the log format of LevelDB: blocks of 32 KiB
with chunks of records. A record is a message of wandb's own schema.
"""

import json
import pathlib
import struct

_HEADER_BYTES = 7
_BLOCK_BYTES = 32 * 1024
# Kinds of the last chunk of a record: the only one, and the last of several.
_LAST_KINDS = (1, 4)


def read_records(path):
    """Yields the records of a file. An incomplete record at the end is omitted."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = pathlib.Path(path).read_bytes()
    position = _HEADER_BYTES
    data = b""
    while position + _HEADER_BYTES <= len(content):
        in_block = _BLOCK_BYTES - position % _BLOCK_BYTES
        if in_block < _HEADER_BYTES:
            position += in_block
            continue
        _, size, kind = struct.unpack_from("<IHB", content, position)
        start = position + _HEADER_BYTES
        position = start + size
        data += content[start:position]
        if kind in _LAST_KINDS:
            record = Record()
            record.ParseFromString(data)
            data = b""
            yield record


def read_offline_runs(folder):
    """Reads all offline runs in a folder.

    Returns:
        List of dicts with the values of each file: `id`, `name`, `project` and `config`
        of the run, and `history` (list of rows).
    """
    runs = []
    for path in sorted(pathlib.Path(folder).glob("wandb/offline-run-*/*.wandb")):
        run = {"id": None, "history": []}
        for record in read_records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run["id"] = record.run.run_id
                run["name"] = record.run.display_name
                run["project"] = record.run.project
                items = record.run.config.update
                run["config"] = {i.key: json.loads(i.value_json) for i in items}
            elif kind == "history":
                run["history"].append(
                    {
                        item.key or "/".join(item.nested_key): json.loads(
                            item.value_json
                        )
                        for item in record.history.item
                    }
                )
        runs.append(run)
    return runs
