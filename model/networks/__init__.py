"""The networks of Fig. 3: the UNet with its adapter, the encoders, location control and attention maps."""
