"""What judging any subject needs: a stranger's code called safely, and what was found."""
