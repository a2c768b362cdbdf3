"""The networks: tensors in, tensors out; they know no AnnData. Importing the package does not import torch."""
