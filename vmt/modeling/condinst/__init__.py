"""Deformable DETR with CondInst's mask head, a frame at a time: the network of IDOL."""
