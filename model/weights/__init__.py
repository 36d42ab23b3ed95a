"""Weights on disk: folders of trained models, and the pretrained bases that training starts from."""
