"""Image-caption pairs: from files on disk to packed batches."""
