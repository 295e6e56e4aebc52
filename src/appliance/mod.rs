//! A running appliance: lanes and the control thread.
