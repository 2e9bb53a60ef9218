"""The commands below ``dbsec crypto``, one file each: its ``add`` puts it into the group."""
