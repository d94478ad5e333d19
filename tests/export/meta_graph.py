"""Reads signatures from a MetaGraphDef, without TensorFlow's protos.

The fields' numbers: tensorflow/core/protobuf/meta_graph.proto.
"""


def read_signatures(meta_graph):
    """Reads a serialized MetaGraphDef.

    Returns:
        dict, signature → (outputs, inputs), each a dict of a tensor's name in the
        signature → in the graph.
    """

    def tensors(signature, field):
        entries = [fields(entry) for entry in fields(signature).get(field, [])]
        return {
            entry[1][0].decode(): fields(entry[2][0])[1][0].decode()
            for entry in entries
            if 1 in fields(entry[2][0])
        }

    entries = [fields(entry) for entry in fields(meta_graph).get(5, [])]
    return {
        entry[1][0].decode(): (tensors(entry[2][0], 2), tensors(entry[2][0], 1))
        for entry in entries
    }


def fields(message):
    """Splits a serialized proto: field number → list of values, bytes or int."""
    found, position = {}, 0

    def varint():
        nonlocal position
        value, shift = 0, 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(message):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            value = varint()
        else:
            length = {1: 8, 5: 4}[kind] if kind != 2 else varint()
            value = message[position : position + length]
            position += length
        found.setdefault(number, []).append(value)
    return found
