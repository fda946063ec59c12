"""Set-up of every test run."""

import torch

# The networks are small: a second thread costs more than it gives, and two test processes would
# fight for the cores. Tests of threading set their own count.
torch.set_num_threads(1)
