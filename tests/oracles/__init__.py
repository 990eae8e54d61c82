"""Reference results for the tests: plain loops, published values, numeric gradients."""
