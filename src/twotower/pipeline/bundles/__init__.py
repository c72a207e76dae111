"""One immutable directory that holds all a cascade needs, its versions, and items that change under it."""
