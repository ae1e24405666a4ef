"""Builds Hearth's bootable images from Debian packages, without loop devices or mounts."""
