"""How the things of the embedded world are drawn: every picture is a list of flat primitives."""
