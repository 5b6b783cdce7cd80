"""What a trained model is worth: figures and pictures on test images."""
