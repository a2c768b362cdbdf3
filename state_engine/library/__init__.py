"""What this installation has: data sets, models, the hub, published models, and which paths may be read."""
