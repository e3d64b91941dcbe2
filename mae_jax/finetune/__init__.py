"""Fine-tuning: probes, LoRA, frozen parts, layer-wise learning rates."""
