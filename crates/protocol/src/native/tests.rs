mod frames;
mod reading;
