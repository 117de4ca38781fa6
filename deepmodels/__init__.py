"""Every landmark deep model in JAX: exact, trainable on any device mesh, without torch or tensorflow."""
