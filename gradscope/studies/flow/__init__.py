"""What the study of gradient flow is made of: its passes, the fitted growth rate, its rows."""
