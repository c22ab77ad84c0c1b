"""The kernels against their peers: correctness first, then time, traffic and memory."""
