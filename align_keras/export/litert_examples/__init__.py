"""Examples that `align-keras export --format litert` copies; nothing imports them."""
