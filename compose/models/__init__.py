"""Model families: the only place, beside training, that knows diffusers' classes."""
