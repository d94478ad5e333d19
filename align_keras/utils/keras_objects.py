"""Classes that Keras opens by name, though neither it nor they are imported yet."""

import importlib
import importlib.abc
import sys


def register_with_keras(modules_of_classes: dict[str, str]) -> None:
    """Lets Keras open saved objects of classes whose modules aren't imported.

    `keras.saving.load_model` knows custom classes by registration, which a class's
    module does. Here stand-ins are registered, as soon as Keras is there: at
    once, or when it is imported. A stand-in imports its class when it is opened.

    Args:
        modules_of_classes: dict of the classes' names, registered in the package
            `align_keras`, and of their modules.
    """
    keras = sys.modules.get("keras")
    if keras is None:
        sys.meta_path.insert(0, _AfterKeras(modules_of_classes))
    else:
        _register(keras, modules_of_classes)


def _register(keras, modules_of_classes):
    known = keras.saving.get_custom_objects()
    for name, module in modules_of_classes.items():
        known.setdefault(f"align_keras>{name}", _stand_in(name, module))


def _stand_in(name, module):
    def from_config(config):
        return getattr(importlib.import_module(module), name).from_config(config)

    return type(name, (), {"from_config": staticmethod(from_config)})


class _AfterKeras(importlib.abc.MetaPathFinder):
    """Registers as soon as Keras is imported; finds nothing by itself."""

    def __init__(self, modules_of_classes):
        self.modules_of_classes = modules_of_classes

    def find_spec(self, name, path=None, target=None):
        if name != "keras":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module):
                execute(module)
                _register(module, self.modules_of_classes)

            spec.loader.exec_module = execute_and_register
        return spec
