"""What the results are held against: plain loops, published values, numeric gradients."""
