"""Extensions of Sphinx that the documentation needs."""
