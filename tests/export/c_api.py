"""Client of TensorFlow's C API with ctypes.

It calls a SavedModel as TensorFlow Serving does, without TensorFlow's Python modules.
The shared library is part of the TensorFlow wheel. The functions and structures are
declared in tensorflow/c/c_api.h, tensorflow/c/tf_tensor.h and tsl/platform/ctstring.h.
"""

import ctypes
import importlib.util
import pathlib
from ctypes import POINTER, Structure, byref, c_char_p, c_int, c_int64, c_size_t

import numpy as np
from meta_graph import read_signatures

OK = 0
STRING = 7
# Maps TF_DataType to dtypes of NumPy.
DTYPES = {1: np.float32, 2: np.float64, 3: np.int32, 4: np.uint8, 9: np.int64, 10: bool}
CODES = {np.dtype(dtype): code for code, dtype in DTYPES.items()}
Pointer = ctypes.c_void_p


class CApiError(RuntimeError):
    """Error status of TensorFlow. The message starts with its code."""


class Buffer(Structure):
    _fields_ = [("data", Pointer), ("length", c_size_t), ("deallocator", Pointer)]


class Output(Structure):
    _fields_ = [("operation", Pointer), ("index", c_int)]


class TString(Structure):
    """TF_TString, an opaque structure of 24 bytes."""

    _fields_ = [("parts", ctypes.c_uint64 * 3)]


_SIGNATURES = {
    "TF_NewStatus": (Pointer, []),
    "TF_DeleteStatus": (None, [Pointer]),
    "TF_GetCode": (c_int, [Pointer]),
    "TF_Message": (c_char_p, [Pointer]),
    "TF_NewBuffer": (POINTER(Buffer), []),
    "TF_DeleteBuffer": (None, [POINTER(Buffer)]),
    "TF_NewGraph": (Pointer, []),
    "TF_DeleteGraph": (None, [Pointer]),
    "TF_GraphOperationByName": (Pointer, [Pointer, c_char_p]),
    "TF_NewSessionOptions": (Pointer, []),
    "TF_DeleteSessionOptions": (None, [Pointer]),
    "TF_LoadLibrary": (Pointer, [c_char_p, Pointer]),
    "TF_LoadSessionFromSavedModel": (
        Pointer,
        [Pointer, Pointer, c_char_p, POINTER(c_char_p), c_int, Pointer]
        + [POINTER(Buffer), Pointer],
    ),
    "TF_CloseSession": (None, [Pointer, Pointer]),
    "TF_DeleteSession": (None, [Pointer, Pointer]),
    "TF_SessionRun": (
        None,
        [Pointer, Pointer, POINTER(Output), POINTER(Pointer), c_int]
        + [POINTER(Output), POINTER(Pointer), c_int, Pointer, c_int]
        + [Pointer, Pointer],
    ),
    "TF_AllocateTensor": (Pointer, [c_int, POINTER(c_int64), c_int, c_size_t]),
    "TF_DeleteTensor": (None, [Pointer]),
    "TF_TensorData": (Pointer, [Pointer]),
    "TF_TensorByteSize": (c_size_t, [Pointer]),
    "TF_TensorType": (c_int, [Pointer]),
    "TF_NumDims": (c_int, [Pointer]),
    "TF_Dim": (c_int64, [Pointer, c_int]),
    "TF_StringInit": (None, [POINTER(TString)]),
    "TF_StringCopy": (None, [POINTER(TString), c_char_p, c_size_t]),
    "TF_StringDealloc": (None, [POINTER(TString)]),
}


class CApi:
    """Functions of the shared library as attributes, without the prefix `TF_`."""

    def __init__(self):
        folder = pathlib.Path(importlib.util.find_spec("tensorflow").origin).parent
        # The symbols are loaded as local symbols, since BoringSSL in this library would
        # otherwise replace Python's OpenSSL.
        library = ctypes.CDLL(str(folder / "libtensorflow_cc.so.2"))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name.removeprefix("TF_"), function)

    def call(self, function, *arguments):
        """Calls a function whose last argument is a status."""
        status = self.NewStatus()
        try:
            result = function(*arguments, status)
            if self.GetCode(status) != OK:
                message = self.Message(status).decode(errors="replace")
                raise CApiError(f"{self.GetCode(status)}: {message}")
            return result
        finally:
            self.DeleteStatus(status)


class CModel:
    """SavedModel that was loaded through the C API.

    Args:
        folder: path of the SavedModel.
        libraries: paths of libraries with operations that it needs.
    """

    def __init__(self, folder, libraries=()):
        self.api = api = CApi()
        for library in libraries:
            api.call(api.LoadLibrary, str(library).encode())
        self.graph = api.NewGraph()
        options, meta_graph = api.NewSessionOptions(), api.NewBuffer()
        tags = (c_char_p * 1)(b"serve")
        try:
            self.session = api.call(
                api.LoadSessionFromSavedModel,
                options,
                None,
                str(folder).encode(),
                tags,
                1,
                self.graph,
                meta_graph,
            )
            content = ctypes.string_at(meta_graph[0].data, meta_graph[0].length)
        finally:
            api.DeleteSessionOptions(options)
            api.DeleteBuffer(meta_graph)
        self.signatures = read_signatures(content)

    def run(self, signature, **inputs):
        """Calls a signature.

        Args:
            signature: str, name of the signature.
            **inputs: arrays by the names of the inputs. Arrays of bytes objects become
                string tensors.

        Returns:
            dict from names of outputs to arrays.

        Raises:
            CApiError: if TensorFlow returns an error.
        """
        api = self.api
        output_names, input_names = self.signatures[signature]
        feeds = [self._find_output(input_names[name]) for name in inputs]
        fetches = [self._find_output(name) for name in output_names.values()]
        tensors = [self._create_tensor(values) for values in inputs.values()]
        outputs = (Pointer * len(fetches))()
        try:
            api.call(
                api.SessionRun,
                self.session,
                None,
                (Output * len(feeds))(*feeds),
                (Pointer * len(tensors))(*tensors),
                len(feeds),
                (Output * len(fetches))(*fetches),
                outputs,
                len(fetches),
                None,
                0,
                None,
            )
            return {
                name: self._to_array(tensor)
                for name, tensor in zip(output_names, outputs, strict=True)
            }
        finally:
            for tensor in tensors:
                self._delete_tensor(tensor)
            for tensor in filter(None, outputs):
                api.DeleteTensor(tensor)

    def close(self):
        self.api.call(self.api.CloseSession, self.session)
        self.api.call(self.api.DeleteSession, self.session)
        self.api.DeleteGraph(self.graph)

    def _find_output(self, name):
        """Returns the output of an operation in the graph, such as "name:0"."""
        operation_name, _, index = name.partition(":")
        operation = self.api.GraphOperationByName(self.graph, operation_name.encode())
        if operation is None:
            raise LookupError(f"The graph must have the operation {operation_name}.")
        return Output(operation, int(index))

    def _create_tensor(self, values):
        api = self.api
        values = np.asarray(values)
        is_string = values.dtype == object
        code = STRING if is_string else CODES[values.dtype]
        size = values.size * ctypes.sizeof(TString) if is_string else values.nbytes
        shape = (c_int64 * values.ndim)(*values.shape)
        tensor = api.AllocateTensor(code, shape, values.ndim, size)
        data = api.TensorData(tensor)
        if is_string:
            for row, content in enumerate((TString * values.size).from_address(data)):
                api.StringInit(byref(content))
                api.StringCopy(byref(content), values.flat[row], len(values.flat[row]))
        elif size:
            ctypes.memmove(data, np.ascontiguousarray(values).ctypes.data, size)
        return tensor

    def _delete_tensor(self, tensor):
        api = self.api
        if api.TensorType(tensor) == STRING:
            count = api.TensorByteSize(tensor) // ctypes.sizeof(TString)
            data = api.TensorData(tensor)
            for content in (TString * count).from_address(data) if count else ():
                api.StringDealloc(byref(content))
        api.DeleteTensor(tensor)

    def _to_array(self, tensor):
        """Returns a copy of a tensor of numbers. The exports have no string outputs."""
        api = self.api
        shape = [api.Dim(tensor, axis) for axis in range(api.NumDims(tensor))]
        size = api.TensorByteSize(tensor)
        content = ctypes.string_at(api.TensorData(tensor), size) if size else b""
        dtype = DTYPES[api.TensorType(tensor)]
        return np.frombuffer(content, dtype).reshape(shape)
