"""Reader of the signatures in a MetaGraphDef that does not need TensorFlow.

The numbers of fields are defined in tensorflow/core/protobuf/meta_graph.proto.
"""


def read_signatures(meta_graph):
    """Reads the signatures of a serialized MetaGraphDef.

    Returns:
        dict from names of signatures to (outputs, inputs). Both are dicts from names
        of tensors in the signature to their names in the graph.
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
    """Returns a dict from field numbers of a serialized proto to lists of values.

    The values are bytes or int.
    """
    values_by_field = {}
    position = 0

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
        values_by_field.setdefault(number, []).append(value)
    return values_by_field
