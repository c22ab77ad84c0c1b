"""Linear assignment in Triton: kernels, their launch, and their inspection."""
