"""The commands, one file each: parse, call, print. None of these modules imports torch when it is imported."""
