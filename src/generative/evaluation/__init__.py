"""What a trained model is worth: metrics and pictures of test images."""
