"""The fast engine: compiled kernels (``csrc``), and the little Python that tells them where things lie."""
