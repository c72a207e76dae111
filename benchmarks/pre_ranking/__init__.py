"""Which model of user and item is worth its cost before ranking, measured so that anyone can rerun it?"""
