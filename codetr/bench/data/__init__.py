"""Images per second of loading: codetr's readers beside torchvision's recipe, plain Pillow and webdataset."""
