"""The commands of ``dbsec tls``: a file here that has ``add`` is one of them."""
