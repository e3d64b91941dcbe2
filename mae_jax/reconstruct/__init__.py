"""Pictures of reconstructions: masked, reconstructed, original (Figure 2), and predicted stains."""
