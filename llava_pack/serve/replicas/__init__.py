"""Other llava-pack servers as replicas of a model: where they are, how they stand, how asked."""
