"""Check files of weights by name, shape and type of their tensors, without reading the tensors.

No module here imports a framework: the packages above pass in the reader of a file and the class of a network.
"""
