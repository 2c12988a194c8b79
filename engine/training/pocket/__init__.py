"""The pocket pack: small real models trained on Tabletop, so that everything runs without downloads and without a GPU."""
