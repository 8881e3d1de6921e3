"""What every stage agrees on: data sets, pictures, manifests and errors."""
