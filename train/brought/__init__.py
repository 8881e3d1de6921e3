"""A model that somebody brought takes the place of training: first its bytes are judged, then it is read."""
