"""Between rounds: correction of predicted labels where the network is uncertain."""
