"""What tests share: small models, runs, towers, chats, data in official layouts, and cases of the kernels."""
