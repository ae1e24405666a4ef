"""The first start of an image: what the boot partition says is done once, and wiped there."""
