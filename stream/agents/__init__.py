"""One Faust agent a file, thin."""
