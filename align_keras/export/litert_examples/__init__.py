"""Examples that `align-keras export litert` copies; nothing imports them."""
