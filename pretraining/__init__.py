"""How `mini` is made, from nothing: corpus -> autoencoder -> UNet, text encoder and ControlNets -> evaluation.

Nothing in the package imports this room. Run it with `python -m pretraining`.
"""
