"""Classification with a frozen tower (paper, Tables 1 and 4): features, batched heads, official dataset layouts."""
