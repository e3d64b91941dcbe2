"""Networks: pure functions of parameters and images; nothing here knows of training or files."""
