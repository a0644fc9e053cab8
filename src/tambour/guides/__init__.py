"""What a drawing starts from."""
