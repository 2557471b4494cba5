"""What a loss that nobody has named really optimises."""
