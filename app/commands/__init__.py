"""The commands, one file each. They declare flags; what they do is imported when they run."""
