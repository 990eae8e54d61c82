"""The steps that make the embedded emoji set: packages, pictures and names, split, features."""
