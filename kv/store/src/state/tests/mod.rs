mod apply;
mod concurrent;
mod crash;
mod damage;
mod fixture;
mod model;
mod snapshot;
